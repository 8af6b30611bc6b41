//! The nouns, parsed once: whoever holds one of these holds a valid one.

mod certificate;
mod command;
mod device;
mod reading;
mod template;
mod topic;

pub use certificate::CertificateId;
pub use command::{CommandId, InvalidCommandId};
pub use device::{DeviceId, InvalidDeviceId};
pub use reading::{BootId, ClockQuality, Incoming, Qos, Reading, Seq, Stamp};
pub use template::{Template, UnknownPlace};
pub use topic::{InvalidTopic, Topic, TopicFilter};
