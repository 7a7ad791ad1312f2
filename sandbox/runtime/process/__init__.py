"""The processes inside: stage1, process 1 and the program, and how each becomes the next."""
