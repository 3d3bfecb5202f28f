"""What orchd knows of engines: one file an engine, all behind the protocol in ``adapter``."""
