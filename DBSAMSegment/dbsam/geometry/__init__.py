"""Where voxels and boxes lie, and how a plane cuts a box."""
