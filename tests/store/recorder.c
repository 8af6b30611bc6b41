/* Records, in order, every call by which a program changes files below one directory, so that a test can
 * rebuild what a disk may hold after a power cut at any of them. Loaded with LD_PRELOAD. Linux, glibc.
 *
 *   STORE_RECORD_DIR    the directory, absolute and without symbolic links
 *   STORE_RECORD_LOG    the file that the log is appended to
 *   STORE_RECORD_MARKS  what is written to this file becomes a mark in the log
 *   STORE_FAULT         "KIND FIRST COUNT ERRNO": the calls FIRST .. FIRST + COUNT - 1 of a KIND (write, sync)
 *                       on the store's files fail with ERRNO
 *   STORE_FAULT_AFTER_MS  a call that fails takes so long, as it does on a disk that tries again and again
 *   STORE_FAULT_DROP    if set, a failed sync also takes its data back out of the page cache
 *
 * A file is known by its inode number, from the moment it is opened. A change and its entry in the log are made
 * under one lock; a sync is entered twice, before and after, for it covers only what was written before it began.
 * Calls that go round glibc are not seen: the tests compare the replayed directory with the real one.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

_Static_assert(sizeof(long) == 8, "the system calls below pass offsets in one register");

enum op { CREATE = 1, WRITE, TRUNCATE, RENAME, UNLINK, MKDIR, SYNC_BEGIN, SYNC_END, MARK, FAULT, UNSUPPORTED, OPEN };

struct entry {
    uint32_t op;
    uint32_t path_bytes;
    uint64_t ino;
    uint64_t at;
    uint64_t data_bytes;
};

/* A write since the last sync, and what it covered: only kept with STORE_FAULT_DROP. */
struct undo {
    uint64_t ino, at, len, old_size;
    int fd;
    char *old;
    struct undo *next;
};

enum { MAX_FILES = 4096 };
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char dir[PATH_MAX], marks[PATH_MAX];
static size_t dir_bytes;
static int log_fd = -1;
static dev_t dev;
static ino_t files[MAX_FILES], marks_ino;
static int file_count;
static uint64_t sync_count;
static struct { char kind[16]; long first, count; int error; long seen; } fault;
static int fault_drop;
static long fault_after_ms;
/* Linux tells each open file of a failed sync, not only the one that asked: the next other one hears of it here. */
static ino_t owed_ino;
static int owed_fd;
static struct undo *undos;

static void die(const char *why) {
    dprintf(2, "recorder: %s\n", why);
    _exit(99);
}

__attribute__((constructor)) static void start(void) {
    const char *where = getenv("STORE_RECORD_DIR"), *log = getenv("STORE_RECORD_LOG");
    const char *mark = getenv("STORE_RECORD_MARKS"), *wanted = getenv("STORE_FAULT");
    struct stat st;
    if (!where || !log) return;
    if (stat(where, &st)) die("STORE_RECORD_DIR does not exist");
    dev = st.st_dev;
    strncpy(dir, where, sizeof dir - 1);
    dir_bytes = strlen(dir);
    if (mark) strncpy(marks, mark, sizeof marks - 1);
    if (wanted && sscanf(wanted, "%15s %ld %ld %d", fault.kind, &fault.first, &fault.count, &fault.error) != 4)
        die("STORE_FAULT is not KIND FIRST COUNT ERRNO");
    fault_drop = getenv("STORE_FAULT_DROP") != NULL;
    if (getenv("STORE_FAULT_AFTER_MS")) fault_after_ms = atol(getenv("STORE_FAULT_AFTER_MS"));
    log_fd = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (log_fd < 0) die("STORE_RECORD_LOG cannot be opened");
}

static void enter(enum op op, uint64_t ino, const char *path, uint64_t at, const void *data, uint64_t len) {
    struct entry e = { op, path ? (uint32_t)strlen(path) : 0, ino, at, len };
    struct iovec parts[3] = { { &e, sizeof e }, { (void *)path, e.path_bytes }, { (void *)data, len } };
    ssize_t whole = (ssize_t)(sizeof e + e.path_bytes + len);
    if (syscall(SYS_writev, log_fd, parts, 3) != whole) die("the log cannot be written");
}

/* The path below the directory, or NULL if it is not below it. */
static const char *below(int dirfd, const char *path, char *room) {
    if (log_fd < 0 || !path) return NULL;
    if (path[0] != '/') {
        char link[64];
        if (dirfd == AT_FDCWD) strcpy(link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", dirfd);
        ssize_t n = readlink(link, room, PATH_MAX - 1);
        if (n < 0) return NULL;
        snprintf(room + n, PATH_MAX - (size_t)n, "/%s", path);
        path = room;
    }
    if (strncmp(path, dir, dir_bytes) || (path[dir_bytes] != '/' && path[dir_bytes])) return NULL;
    path += dir_bytes;
    while (*path == '/') path++;
    return path;
}

/* Whether it is new. */
static int know(ino_t ino) {
    for (int i = 0; i < file_count; i++) if (files[i] == ino) return 0;
    if (file_count == MAX_FILES) die("too many files");
    files[file_count++] = ino;
    return 1;
}

static void forget(ino_t ino) {
    for (int i = 0; i < file_count; i++) if (files[i] == ino) { files[i] = files[--file_count]; return; }
}

/* The inode of a descriptor on a recorded file or directory, else 0. */
static ino_t recorded(int fd) {
    struct stat st;
    if (log_fd < 0 || fd == log_fd || fstat(fd, &st) || st.st_dev != dev) return 0;
    for (int i = 0; i < file_count; i++) if (files[i] == st.st_ino) return st.st_ino;
    return 0;
}

/* Called, and left, with the lock held. */
static int fails(const char *kind) {
    if (strcmp(fault.kind, kind)) return 0;
    long n = ++fault.seen;
    if (n < fault.first || n >= fault.first + fault.count) return 0;
    enter(FAULT, 0, kind, (uint64_t)n, NULL, 0);
    if (fault_after_ms) {
        struct timespec left = { fault_after_ms / 1000, fault_after_ms % 1000 * 1000000 };
        pthread_mutex_unlock(&lock);
        while (nanosleep(&left, &left)) {}
        pthread_mutex_lock(&lock);
    }
    errno = fault.error;
    return 1;
}

static int any_open(int at, const char *path, int flags, mode_t mode) {
    char room[PATH_MAX];
    const char *rel = below(at, path, room);
    int is_mark = log_fd >= 0 && marks[0] && path && !strcmp(path, marks);
    if (!rel && !is_mark) return (int)syscall(SYS_openat, at, path, flags, mode);
    pthread_mutex_lock(&lock);
    struct stat before, st;
    int was = fstatat(at, path, &before, 0) == 0;
    int fd = (int)syscall(SYS_openat, at, path, flags, mode), error = errno;
    if (fd >= 0 && !fstat(fd, &st)) {
        if (is_mark) marks_ino = st.st_ino;
        else {
            if ((flags & O_TMPFILE) == O_TMPFILE) enter(UNSUPPORTED, 0, "O_TMPFILE", 0, NULL, 0);
            int is_new = know(st.st_ino);
            if (!was) enter(CREATE, st.st_ino, rel, 0, NULL, 0);
            else if (is_new) enter(OPEN, st.st_ino, rel, 0, NULL, 0);
            if (was && (flags & O_TRUNC) && before.st_size) enter(TRUNCATE, st.st_ino, NULL, 0, NULL, 0);
        }
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return fd;
}

#define WITH_MODE(last) mode_t mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { va_list more; va_start(more, last); \
    mode = va_arg(more, mode_t); va_end(more); }
int open(const char *path, int flags, ...) { WITH_MODE(flags) return any_open(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { WITH_MODE(flags) return any_open(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { WITH_MODE(flags) return any_open(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { WITH_MODE(flags) return any_open(at, path, flags, mode); }
int creat(const char *path, mode_t mode) { return any_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return any_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

static void keep_undo(int fd, ino_t ino, off_t at, size_t len) {
    struct stat st;
    struct undo *u = malloc(sizeof *u);
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int own = (int)syscall(SYS_openat, AT_FDCWD, link, O_RDWR | O_CLOEXEC, 0);
    if (!u || own < 0 || fstat(fd, &st)) die("an undo cannot be prepared");
    *u = (struct undo){ ino, (uint64_t)at, len, (uint64_t)st.st_size, own, malloc(len + 1), undos };
    ssize_t got = u->old ? syscall(SYS_pread64, own, u->old, len, at) : -1;
    if (got < 0) die("what a write covers cannot be read");
    memset(u->old + got, 0, len - (size_t)got);
    undos = u;
}

/* Ends the undos of a file that were made before `until`; `back`: puts the old content back, newest first. */
static void end_undos(ino_t ino, struct undo *until, int back) {
    struct undo **link = &undos;
    while (*link && *link != until) link = &(*link)->next;
    while (*link) {
        struct undo *u = *link;
        if (u->ino != ino) { link = &u->next; continue; }
        if (back && (syscall(SYS_pwrite64, u->fd, u->old, u->len, u->at) < 0 || syscall(SYS_ftruncate, u->fd, u->old_size)))
            die("an undo failed");
        *link = u->next;
        syscall(SYS_close, u->fd);
        free(u->old);
        free(u);
    }
}

/* Writes at an offset; -1: at the descriptor's own position. */
static ssize_t any_write(int fd, const struct iovec *parts, int count, off_t at) {
    pthread_mutex_lock(&lock);
    ssize_t done;
    struct stat st;
    ino_t ino = recorded(fd);
    if (!ino) {
        int is_mark = marks_ino && !fstat(fd, &st) && st.st_ino == marks_ino;
        if (is_mark) for (int i = 0; i < count; i++) enter(MARK, 0, NULL, 0, parts[i].iov_base, parts[i].iov_len);
        pthread_mutex_unlock(&lock);
        return at < 0 ? syscall(SYS_writev, fd, parts, count) : syscall(SYS_pwritev, fd, parts, count, at, 0);
    }
    size_t len = 0;
    for (int i = 0; i < count; i++) len += parts[i].iov_len;
    off_t start = at;
    if (at < 0) start = fcntl(fd, F_GETFL) & O_APPEND ? syscall(SYS_lseek, fd, 0, SEEK_END) : syscall(SYS_lseek, fd, 0, SEEK_CUR);
    int error;
    if (fails("write")) done = -1, error = errno;
    else {
        if (fault_drop) keep_undo(fd, ino, start, len);
        done = at < 0 ? syscall(SYS_writev, fd, parts, count) : syscall(SYS_pwritev, fd, parts, count, at, 0);
        error = errno;
        ssize_t left = done;
        for (int i = 0; i < count && left > 0; i++) {
            ssize_t n = left < (ssize_t)parts[i].iov_len ? left : (ssize_t)parts[i].iov_len;
            enter(WRITE, ino, NULL, (uint64_t)start, parts[i].iov_base, (uint64_t)n);
            start += n;
            left -= n;
        }
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

static ssize_t one_write(int fd, const void *data, size_t len, off_t at) {
    struct iovec part = { (void *)data, len };
    return any_write(fd, &part, 1, at);
}
ssize_t write(int fd, const void *data, size_t len) { return one_write(fd, data, len, -1); }
ssize_t pwrite(int fd, const void *data, size_t len, off_t at) { return one_write(fd, data, len, at); }
ssize_t pwrite64(int fd, const void *data, size_t len, off64_t at) { return one_write(fd, data, len, at); }
ssize_t writev(int fd, const struct iovec *parts, int count) { return any_write(fd, parts, count, -1); }
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) { return any_write(fd, parts, count, at); }
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) { return any_write(fd, parts, count, at); }
ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t at, int flags) { (void)flags; return any_write(fd, parts, count, at); }
ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t at, int flags) { (void)flags; return any_write(fd, parts, count, at); }

static int any_truncate(int fd, off_t len) {
    pthread_mutex_lock(&lock);
    ino_t ino = recorded(fd);
    int done = ino && fails("write") ? -1 : (int)syscall(SYS_ftruncate, fd, len), error = errno;
    if (ino && !done) enter(TRUNCATE, ino, NULL, (uint64_t)len, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}
int ftruncate(int fd, off_t len) { return any_truncate(fd, len); }
int ftruncate64(int fd, off64_t len) { return any_truncate(fd, len); }

static int any_allocate(int fd, int mode, off_t at, off_t len) {
    pthread_mutex_lock(&lock);
    ino_t ino = recorded(fd);
    struct stat st;
    int done = ino && fails("write") ? -1 : (int)syscall(SYS_fallocate, fd, mode, at, len), error = errno;
    if (ino && !done && mode & ~FALLOC_FL_KEEP_SIZE) enter(UNSUPPORTED, ino, "fallocate with a mode", 0, NULL, 0);
    if (ino && !done && !mode && !fstat(fd, &st) && st.st_size == at + len) enter(TRUNCATE, ino, NULL, (uint64_t)(at + len), NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}
int fallocate(int fd, int mode, off_t at, off_t len) { return any_allocate(fd, mode, at, len); }
int fallocate64(int fd, int mode, off64_t at, off64_t len) { return any_allocate(fd, mode, at, len); }
int posix_fallocate(int fd, off_t at, off_t len) { return any_allocate(fd, 0, at, len) ? errno : 0; }
int posix_fallocate64(int fd, off64_t at, off64_t len) { return any_allocate(fd, 0, at, len) ? errno : 0; }

static int any_sync(int fd, long call) {
    pthread_mutex_lock(&lock);
    ino_t ino = recorded(fd);
    if (!ino) {
        pthread_mutex_unlock(&lock);
        return (int)syscall(call, fd);
    }
    uint64_t id = ++sync_count;
    struct undo *until = undos;
    enter(SYNC_BEGIN, ino, NULL, id, NULL, 0);
    int failed = fails("sync"), done = -1, error = errno;
    int owed = !failed && owed_ino == ino && owed_fd != fd;
    if (!failed) {
        pthread_mutex_unlock(&lock);
        done = (int)syscall(call, fd);
        error = errno;
        pthread_mutex_lock(&lock);
    }
    if (failed) owed_ino = ino, owed_fd = fd;
    else if (owed) owed_ino = 0, done = -1, error = EIO;
    enter(SYNC_END, ino, !done ? NULL : fault_drop ? "dropped" : "failed", id, NULL, 0);
    if (fault_drop) end_undos(ino, until, failed);
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}
int fsync(int fd) { return any_sync(fd, SYS_fsync); }
int fdatasync(int fd) { return any_sync(fd, SYS_fdatasync); }

/* Not a barrier: it flushes neither metadata nor the device's cache (sync_file_range(2)). Only its failure matters. */
int sync_file_range(int fd, off64_t at, off64_t len, unsigned flags) {
    return (int)syscall(SYS_sync_file_range, fd, at, len, flags);
}

static int any_rename(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
    char from_room[PATH_MAX], to_room[PATH_MAX];
    const char *rel = below(from_at, from, from_room), *rel_to = below(to_at, to, to_room);
    if (!rel && !rel_to) return (int)syscall(SYS_renameat2, from_at, from, to_at, to, flags);
    pthread_mutex_lock(&lock);
    struct stat over;
    int replaces = fstatat(to_at, to, &over, AT_SYMLINK_NOFOLLOW) == 0;
    int done = (int)syscall(SYS_renameat2, from_at, from, to_at, to, flags), error = errno;
    if (!done) {
        if (!rel || !rel_to || flags) enter(UNSUPPORTED, 0, "rename across the border or with flags", 0, NULL, 0);
        else enter(RENAME, 0, rel, 0, rel_to, strlen(rel_to));
        if (replaces) forget(over.st_ino);
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}
int rename(const char *from, const char *to) { return any_rename(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int a, const char *from, int b, const char *to) { return any_rename(a, from, b, to, 0); }
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) { return any_rename(a, from, b, to, flags); }

static int any_unlink(int at, const char *path, int flags) {
    char room[PATH_MAX];
    const char *rel = below(at, path, room);
    if (!rel) return (int)syscall(SYS_unlinkat, at, path, flags);
    pthread_mutex_lock(&lock);
    struct stat st;
    int known = fstatat(at, path, &st, AT_SYMLINK_NOFOLLOW) == 0;
    int done = (int)syscall(SYS_unlinkat, at, path, flags), error = errno;
    if (!done) {
        enter(UNLINK, 0, rel, 0, NULL, 0);
        if (known) forget(st.st_ino);
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}
int unlink(const char *path) { return any_unlink(AT_FDCWD, path, 0); }
int unlinkat(int at, const char *path, int flags) { return any_unlink(at, path, flags); }
int rmdir(const char *path) { return any_unlink(AT_FDCWD, path, AT_REMOVEDIR); }

static int any_mkdir(int at, const char *path, mode_t mode) {
    char room[PATH_MAX];
    const char *rel = below(at, path, room);
    if (!rel) return (int)syscall(SYS_mkdirat, at, path, mode);
    pthread_mutex_lock(&lock);
    int done = (int)syscall(SYS_mkdirat, at, path, mode), error = errno;
    struct stat st;
    if (!done && !fstatat(at, path, &st, 0)) {
        know(st.st_ino);
        enter(MKDIR, st.st_ino, rel, 0, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}
int mkdir(const char *path, mode_t mode) { return any_mkdir(AT_FDCWD, path, mode); }
int mkdirat(int at, const char *path, mode_t mode) { return any_mkdir(at, path, mode); }

/* Ways to change a file that the replay does not know: seen, and refused there. */
static void unsupported(int fd, const char *what) {
    pthread_mutex_lock(&lock);
    if (recorded(fd)) enter(UNSUPPORTED, 0, what, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
}
void *mmap(void *at, size_t len, int prot, int flags, int fd, off_t off) {
    if (log_fd >= 0 && fd >= 0 && (flags & MAP_SHARED) && (prot & PROT_WRITE)) unsupported(fd, "writable shared mapping");
    return (void *)syscall(SYS_mmap, at, len, prot, flags, fd, off);
}
void *mmap64(void *at, size_t len, int prot, int flags, int fd, off64_t off) { return mmap(at, len, prot, flags, fd, off); }
ssize_t copy_file_range(int in, off64_t *in_at, int out, off64_t *out_at, size_t len, unsigned flags) {
    unsupported(out, "copy_file_range");
    return syscall(SYS_copy_file_range, in, in_at, out, out_at, len, flags);
}
ssize_t sendfile64(int out, int in, off64_t *at, size_t len) {
    unsupported(out, "sendfile");
    return syscall(SYS_sendfile, out, in, at, len);
}

/* The end of a process that crashes on purpose must not fall between a change and its entry in the log. */
void abort(void) {
    if (log_fd >= 0) pthread_mutex_lock(&lock);
    _exit(134);
}
