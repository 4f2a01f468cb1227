"""One runtime library a file, behind the protocol of ``base``."""
