"""Live views in cells. Each is an anywidget without CDN, bundler or node; the page's half is in `static`.

base   what they share: where the store is, static fallbacks, messages        live   `live` and `grid`: one query
view   a block of the user's own, run again when its queries change           form   `form` and `button`: one mutation
sql    the result of a statement, live
"""
