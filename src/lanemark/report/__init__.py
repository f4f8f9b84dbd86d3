"""View models (pure) and their HTML and terminal rendering."""
