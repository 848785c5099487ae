"""The test suite of greenmq: see the folders for what each kind of test is for."""
