"""The guarded model's API: one interface, reached over HTTP, through litellm, or inside this process."""
