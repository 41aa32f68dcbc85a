"""What everything is about: messages, sessions, replies, events. Pure: no I/O, no clock but as an argument."""
