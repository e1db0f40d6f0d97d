"""Which of this machine's addresses and interfaces leads to another machine.

By itself gloo takes what the host name stands for, which may be the loopback or another network.
"""

import fcntl
import socket
import struct

_GET_ADDRESS = 0x8915
"""SIOCGIFADDR of Linux: the IPv4 address of an interface."""
_REQUEST = struct.Struct("256s")
_NAME_BYTES, _ADDRESS_AT = 15, slice(20, 24)


def own_address(host: str, port: int) -> str:
    """The IPv4 address of this machine on the network that leads to `host`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))  # nothing is sent
        own: str = probe.getsockname()[0]
        return own


def own_interface(host: str, port: int) -> str | None:
    """The interface that has that address, such as `eth0`; None where it has it as a further one."""
    own = own_address(host, port)
    return next((name for _, name in socket.if_nameindex() if _address(name) == own), None)


def _address(interface: str) -> str | None:
    """Its first IPv4 address; None where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            told = fcntl.ioctl(asking.fileno(), _GET_ADDRESS, _REQUEST.pack(interface.encode()[:_NAME_BYTES]))
        except OSError:
            return None
    return socket.inet_ntoa(told[_ADDRESS_AT])
