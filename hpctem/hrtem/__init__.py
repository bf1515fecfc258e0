"""High-resolution TEM: what one campaign means, from the draw of a structure to its stored rows."""
