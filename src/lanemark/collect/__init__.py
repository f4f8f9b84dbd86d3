"""The life of an attempt: its states, its conduct from launch to sealed record, and sealing what was left behind."""
