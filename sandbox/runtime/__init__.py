"""Run a planned sandbox and clean up after it: the supervisor, the processes it forks, and the messages between them."""
