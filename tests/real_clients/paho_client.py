"""What a device does, all of it, with Eclipse Paho: run by paho.rs with its settings as JSON.

Ends with 0 if everything went as it should."""

import json
import queue
import subprocess
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

PATIENCE = 30
SETTINGS = json.loads(sys.argv[1])
IS_V5 = SETTINGS["version"] == 5
TOPIC = SETTINGS["topic"]


class Peer:
    """A connected client, whose messages wait until they are asked for."""

    def __init__(self, name, kept=False, will=None):
        self.messages, self.connected, self.subscribed = queue.Queue(), queue.Queue(), queue.Queue()
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=f"{TOPIC.replace('/', '-')}-{name}",
            clean_session=None if IS_V5 else not kept,
            protocol=mqtt.MQTTv5 if IS_V5 else mqtt.MQTTv311,
            transport="websockets" if SETTINGS["path"] else "tcp",
            reconnect_on_failure=False,
        )
        if SETTINGS["path"]:
            self.client.ws_set_options(path=SETTINGS["path"])
        self.client.tls_set(SETTINGS["ca"], SETTINGS["cert"], SETTINGS["key"])
        if SETTINGS["user"]:
            self.client.username_pw_set(SETTINGS["user"], SETTINGS["password"])
        if will:
            self.client.will_set(f"{TOPIC}/will", will, qos=1)
        self.client.on_connect = lambda _c, _u, flags, reason, _p: self.connected.put((flags, reason))
        self.client.on_subscribe = lambda _c, _u, _id, reasons, _p: self.subscribed.put(reasons)
        self.client.on_message = lambda _c, _u, message: self.messages.put(message)
        options = {}
        if IS_V5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 60 if kept else 0
            options = {"clean_start": not kept, "properties": properties}
        self.client.connect(SETTINGS["host"], SETTINGS["port"], **options)
        self.client.loop_start()
        flags, reason = self.connected.get(timeout=PATIENCE)
        assert not reason.is_failure, reason
        self.session_present = flags.session_present

    def subscribe(self, name, qos):
        self.client.subscribe(f"{TOPIC}/{name}", qos)
        granted = [reason.value for reason in self.subscribed.get(timeout=PATIENCE)]
        assert granted == [qos], granted

    def publish(self, name, payload, qos, retain=False, properties=None):
        info = self.client.publish(f"{TOPIC}/{name}", payload, qos, retain, properties)
        info.wait_for_publish(PATIENCE)
        assert info.is_published(), (name, payload)

    def next(self, name, payload, qos):
        message = self.messages.get(timeout=PATIENCE)
        found = (message.topic, message.payload.decode(), message.qos)
        assert found == (f"{TOPIC}/{name}", payload, qos), found
        return message

    def disconnect(self):
        self.client.disconnect()
        self.client.loop_stop()


def every_quality_both_ways(one, other):
    one.subscribe("to-one", 2)
    other.subscribe("to-other", 2)
    for qos in range(3):
        one.publish("to-other", f"ping {qos}", qos)
        other.next("to-other", f"ping {qos}", qos)
        other.publish("to-one", f"pong {qos}", qos)
        one.next("to-one", f"pong {qos}", qos)


def retained(one):
    one.publish("retained", "kept", 1, retain=True)
    late = Peer("late")
    late.subscribe("retained", 1)
    assert late.next("retained", "kept", 1).retain
    one.publish("retained", "", 1, retain=True)
    late.next("retained", "", 1)
    late.disconnect()


def will(other):
    other.subscribe("will", 1)
    command = [sys.executable, __file__, sys.argv[1], "die"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as dying:
        assert dying.stdout.readline() == b"connected\n"
        dying.kill()
    other.next("will", "last words", 1)


def persistent_session(one):
    away = Peer("away", kept=True)
    assert not away.session_present
    away.subscribe("away", 2)
    away.disconnect()
    for qos in (1, 2):
        one.publish("away", f"waits {qos}", qos)
    away = Peer("away", kept=True)
    assert away.session_present
    for qos in (1, 2):
        away.next("away", f"waits {qos}", qos)
    away.disconnect()


def properties_of_version_5(one, other):
    properties = Properties(PacketTypes.PUBLISH)
    properties.ContentType = "text/plain"
    properties.UserProperty = [("b", "1"), ("a", "2")]
    properties.MessageExpiryInterval = 1000
    one.publish("to-other", "with properties", 1, properties=properties)
    found = other.next("to-other", "with properties", 1).properties
    assert found.ContentType == "text/plain", found
    assert found.UserProperty == [("b", "1"), ("a", "2")], found
    assert found.MessageExpiryInterval <= 1000, found


def main():
    if len(sys.argv) > 2:
        dying = Peer("dying", will="last words")
        print("connected", flush=True)
        dying.connected.get()
    one, other = Peer("one"), Peer("other")
    every_quality_both_ways(one, other)
    if IS_V5:
        properties_of_version_5(one, other)
    retained(one)
    will(other)
    persistent_session(one)
    one.disconnect()
    other.disconnect()


main()
