"""Starting the server for the launcher: the request, the confinement of the process, and indexes that are made beside it."""
