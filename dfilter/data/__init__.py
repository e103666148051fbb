"""Read and write: formats to Arrow, rejected rows."""
