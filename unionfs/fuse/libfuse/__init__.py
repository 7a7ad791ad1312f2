"""The server over pyfuse3 and trio, in which libfuse implements the protocol. Read this one first."""
