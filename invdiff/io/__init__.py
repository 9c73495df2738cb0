"""Files and arrays in and out: pictures, medical volumes, measurements, and how they are laid out."""
