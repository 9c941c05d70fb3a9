"""What decides: pure code. Events and ``now`` go in, acts come out; no system call, no clock."""
