"""LoRaWAN sensors: uplinks of ChirpStack and The Things Network, decoded into points.

From an MQTT message to points: `uplink.parse` reads the message, `sensors.Sensors` finds the
device's decoder, `history.History` gives buffered samples their own times; `history_file` keeps
them. None of it has a socket.
"""
