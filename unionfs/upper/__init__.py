"""The writable layer: changes on disk, deletion marks, recorded formats, permissions and quota."""
