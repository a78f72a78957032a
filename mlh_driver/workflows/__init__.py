"""Whole studies as one call each: campaigns of many tasks that go on where they were stopped."""
