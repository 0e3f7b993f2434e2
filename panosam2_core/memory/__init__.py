"""What a stream remembers of an object: a bounded bank, long-term draws, attention tokens."""
