"""A broker from before MQTT 5."""

import socket
import ssl
import threading

from demo.parts import HOST
from tests.integration.tcp_server import TcpServer, forward

# How such brokers answer a CONNECT of version 5: with a CONNACK of their own version (MQTT 3.1.1,
# section 3.2.2.3: unacceptable protocol version), of version 5 (section 3.2.2.2), or not at all.
REFUSALS = {
    "as of 3.1.1": b"\x20\x02\x00\x01",
    "as of 5": b"\x20\x03\x00\x84\x00",
    "by silence": b"",
}


class OldBroker(TcpServer):
    """Lets MQTT 3.1.1 through to a real broker, and refuses MQTT 5; speaks TLS if told how."""

    def __init__(self, target_port: int, refusal: bytes, tls: ssl.SSLContext | None = None) -> None:
        """Listen on `port`."""
        self.refused = 0

        def serve(client: socket.socket) -> None:
            hello = client.recv(4096)
            version = hello[hello.index(b"\x00\x04MQTT") + 6]
            if version != 4:
                self.refused += 1
                client.sendall(refusal)
                return
            with socket.create_connection((HOST, target_port)) as server:
                server.sendall(hello)
                threading.Thread(target=forward, args=(server, client), daemon=True).start()
                forward(client, server)

        def decrypt(client: socket.socket) -> None:
            assert tls
            with tls.wrap_socket(client, server_side=True) as encrypted:
                serve(encrypted)

        super().__init__(decrypt if tls else serve)
