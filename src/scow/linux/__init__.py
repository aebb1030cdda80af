"""One thin typed function for each kernel call."""
