"""What type checkers and editors say about programs that use the package."""
