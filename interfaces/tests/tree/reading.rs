//! What a scan finds, and what it leaves alone.
