"""The processes inside the sandbox: stage1 forks init (process 1), and init forks the process that executes the program."""
