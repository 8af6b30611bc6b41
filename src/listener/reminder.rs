//! Certificates that end soon are known when they are shown: of an external CA there is no other list.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tracing::warn;

use crate::message::{CertificateId, DeviceId};

const PERIOD: Duration = Duration::from_secs(86_400);
/// Beyond it nobody is reminded of until some were reminded of a day ago.
const MAX_REMEMBERED: usize = 4_096;

/// Says once a day of each device that its certificate ends soon.
#[derive(Default)]
pub(super) struct Reminder(Mutex<HashMap<DeviceId, Instant>>);

impl Reminder {
    pub(super) fn remind(&self, (device, certificate): &(DeviceId, CertificateId), end: OffsetDateTime) {
        if self.is_due(device, Instant::now()) {
            let (serial, valid_until) = (&certificate.serial, end.date());
            warn!(%device, serial, %valid_until, "the certificate that it shows ends soon");
        }
    }

    fn is_due(&self, device: &DeviceId, now: Instant) -> bool {
        let mut reminded = self.0.lock().expect("no panic under this lock");
        if reminded.get(device).is_some_and(|at| now.duration_since(*at) < PERIOD) {
            return false;
        }
        if reminded.len() >= MAX_REMEMBERED {
            reminded.retain(|_, at| now.duration_since(*at) < PERIOD);
        }
        let has_room = reminded.len() < MAX_REMEMBERED;
        if has_room {
            reminded.insert(device.clone(), now);
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_reminded_of_once_a_day() {
        let (reminder, now) = (Reminder::default(), Instant::now());
        let [pump, fan] = ["pump", "fan"].map(|name| DeviceId::parse(name).unwrap());
        let due =
            |device: &DeviceId, hours: u64| reminder.is_due(device, now + Duration::from_secs(hours * 3_600));
        let seen =
            [due(&pump, 0), due(&pump, 1), due(&fan, 1), due(&pump, 23), due(&pump, 25), due(&pump, 26)];
        assert_eq!(seen, [true, false, true, false, true, false]);
    }
}
