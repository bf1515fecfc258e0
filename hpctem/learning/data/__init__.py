"""What networks see: images of databases and micrographs, prepared, in order, varied."""
