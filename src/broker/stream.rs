//! Which publishes are readings, and whose.

use std::sync::Arc;

use super::payload::Fitness;
use crate::authorize::Identity;
use crate::config::{self, DeviceSource};
use crate::message::{DeviceId, TopicFilter};

/// The configured streams, in their order.
#[derive(Debug)]
pub(super) struct Streams(Vec<Stream>);

/// Publishes that are readings.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) name: Arc<str>,
    filter: TopicFilter,
    device: DeviceSource,
    fitness: Fitness,
}

/// Where the readings of one topic on one connection go.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// An index into [`Streams`].
    pub(super) stream: usize,
    pub(super) device: DeviceId,
    /// Why the device's name cannot be used; `device` is then who published it.
    pub(super) fault: Option<String>,
}

impl Streams {
    pub(super) fn new(streams: &[config::Stream]) -> Self {
        Self(streams.iter().map(Stream::new).collect())
    }

    /// The source of what is published to a topic; the first stream that matches has it. `None`: it is no reading.
    pub(super) fn source(&self, topic: &str, who: &Identity, client_id: &str) -> Option<Source> {
        let stream = self.0.iter().position(|stream| stream.filter.matches(topic))?;
        Some(match self.0[stream].device(topic, who, client_id) {
            Ok(device) => Source { stream, device, fault: None },
            Err(fault) => Source { stream, device: who.device.clone(), fault: Some(fault) },
        })
    }

    pub(super) fn get(&self, index: usize) -> &Stream {
        &self.0[index]
    }
}

impl Stream {
    fn new(settings: &config::Stream) -> Self {
        Self {
            name: settings.name.as_str().into(),
            filter: settings.filter.clone(),
            device: settings.device,
            fitness: Fitness::new(settings),
        }
    }

    /// Why no sink can use this payload, if so.
    pub(super) fn fault(&self, device: &DeviceId, payload: &[u8]) -> Option<String> {
        self.fitness.check(device, payload).err().map(|unfit| unfit.to_string())
    }

    fn device(&self, topic: &str, who: &Identity, client_id: &str) -> Result<DeviceId, String> {
        let (name, place) = match self.device {
            DeviceSource::Certificate => return Ok(who.device.clone()),
            DeviceSource::ClientId => (client_id, "the client id".to_owned()),
            DeviceSource::TopicLevel(level) => {
                let name = level.checked_sub(1).and_then(|index| topic.split('/').nth(index));
                let place = format!("level {level} of the topic");
                (name.ok_or_else(|| format!("{place} should name the device, there is none"))?, place)
            }
        };
        DeviceId::parse(name).map_err(|why| format!("{place} should name the device: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authorize::IdentityKind;
    use crate::config::PayloadFormat;

    fn streams(entries: &[(&str, &str, DeviceSource)]) -> Streams {
        let stream = |(name, filter, device): &(&str, &str, DeviceSource)| config::Stream {
            name: (*name).to_owned(),
            filter: TopicFilter::parse(filter).unwrap(),
            device: *device,
            format: PayloadFormat::Text,
            fields: Vec::new(),
            integrity: None,
            open_to: Vec::new(),
        };
        Streams::new(&entries.iter().map(stream).collect::<Vec<_>>())
    }

    fn who() -> Identity {
        Identity { device: DeviceId::parse("plug").unwrap(), kind: IdentityKind::Certificate }
    }

    fn device(streams: &Streams, topic: &str, client_id: &str) -> Result<String, String> {
        let source = streams.source(topic, &who(), client_id).unwrap();
        match source.fault {
            None => Ok(source.device.to_string()),
            Some(fault) => {
                assert_eq!(source.device.as_str(), "plug", "a reading has a device, whatever is wrong");
                Err(fault)
            }
        }
    }

    #[test]
    fn the_first_stream_that_matches_has_the_reading() {
        let streams = streams(&[
            ("power", "+/power", DeviceSource::Certificate),
            ("all", "plug/#", DeviceSource::Certificate),
        ]);
        let name =
            |topic| streams.source(topic, &who(), "c").map(|it| streams.get(it.stream).name.to_string());
        assert_eq!(name("plug/power").as_deref(), Some("power"));
        assert_eq!(name("plug/energy").as_deref(), Some("all"));
        assert_eq!(name("lamp/energy"), None);
    }

    #[test]
    fn the_device_is_named_by_certificate_client_id_or_topic() {
        let by = |source| streams(&[("s", "#", source)]);
        assert_eq!(device(&by(DeviceSource::Certificate), "a/b", "c").unwrap(), "plug");
        assert_eq!(device(&by(DeviceSource::ClientId), "a/b", "c").unwrap(), "c");
        assert_eq!(device(&by(DeviceSource::TopicLevel(2)), "a/b", "c").unwrap(), "b");
    }

    #[test]
    fn a_name_that_cannot_be_used_is_a_fault_of_the_reading() {
        let by_client_id = streams(&[("s", "#", DeviceSource::ClientId)]);
        let fault = device(&by_client_id, "a", "my plug").unwrap_err();
        assert!(
            fault.starts_with("the client id should name the device: a device name consists of"),
            "{fault}"
        );
        let by_level = streams(&[("s", "#", DeviceSource::TopicLevel(3))]);
        let fault = device(&by_level, "a/b", "c").unwrap_err();
        assert_eq!(fault, "level 3 of the topic should name the device, there is none");
        assert!(device(&by_level, "a/b/ü", "c").is_err());
    }
}
