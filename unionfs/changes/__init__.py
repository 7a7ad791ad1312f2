"""What a writable layer changes of the layers below: rows for people, members of an archive for programs. Changes nothing."""
