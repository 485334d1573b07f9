"""The console: web pages for those who answer for the guard. Rendered here, behind the admin key, with nothing from elsewhere."""
