"""The server over pyfuse3 and trio, the one to read first: libfuse speaks the protocol."""
