"""The nouns, and all that crosses a process or touches disk. Pure: nothing here opens a file or starts a process."""
