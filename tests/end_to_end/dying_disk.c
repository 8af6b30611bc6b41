/* A disk that answers no more: while the file exists that DEAD_DISK names, no sync comes back. LD_PRELOAD, Linux. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static int when_alive(long call, int fd) {
    const char *dead = getenv("DEAD_DISK");
    while (dead && !access(dead, F_OK)) usleep(10000);
    return (int)syscall(call, fd);
}
int fsync(int fd) { return when_alive(SYS_fsync, fd); }
int fdatasync(int fd) { return when_alive(SYS_fdatasync, fd); }
