"""The HTTP interface: from ``routes`` down, what each request means to orchd."""
