"""Codecs of values with a syntax of their own. Values that are more than a string are small frozen classes.

layers       "dir:/", { dir = "/", cross = [...] }
accounts     1000, "1000:1000", "www-data"
program      a command, a terminal
namespaces   "private", "host", "path:...", offsets of clocks, a host name
volumes      the target of a volume, mount options, the target of a device
protected    a path that is masked or made read-only
direct_bind  a path that is bind-mounted directly from a layer
resources    a list of processors: "0-3,8"
build        paths of a build step that copies
addresses    "127.0.0.1:8080:80/tcp", addresses, networks, destinations
"""

from sandbox.spec.values.accounts import User
from sandbox.spec.values.addresses import Port
from sandbox.spec.values.layers import Layer, LayerTable
from sandbox.spec.values.namespaces import TimeOffsets

__all__ = ["Layer", "LayerTable", "Port", "TimeOffsets", "User"]
