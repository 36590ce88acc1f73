"""The yardstick: a paho client that receives messages and does nothing with them.

Prints "connected", then "done" after the given number of messages, and waits for its standard
input to close, so that its processor time can be read in between.
"""

import argparse
import sys
import time
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties


def main() -> None:
    """Receive."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--client-id", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--qos", type=int, default=1)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--v5", action="store_true")
    parser.add_argument("--manual-ack", action="store_true")
    options = parser.parse_args()

    received = 0

    def on_message(client: mqtt.Client, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        nonlocal received
        received += 1
        if options.manual_ack:
            client.ack(message.mid, message.qos)
        if received == options.count:
            print("done", time.monotonic(), flush=True)

    def on_connect(client: mqtt.Client, *_: Any) -> None:
        client.subscribe(options.topic, options.qos)
        print("connected", time.monotonic(), flush=True)

    client = mqtt.Client(
        CallbackAPIVersion.VERSION2,
        options.client_id,
        clean_session=None if options.v5 else False,
        protocol=MQTTProtocolVersion.MQTTv5 if options.v5 else MQTTProtocolVersion.MQTTv311,
        manual_ack=options.manual_ack,
    )
    client.on_message = on_message
    client.on_connect = on_connect
    if options.v5:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = 3600
        properties.ReceiveMaximum = 65535
        client.connect("127.0.0.1", options.port, clean_start=False, properties=properties)
    else:
        client.connect("127.0.0.1", options.port)
    client.loop_start()
    sys.stdin.read()
    client.disconnect()
    client.loop_stop()


if __name__ == "__main__":
    main()
