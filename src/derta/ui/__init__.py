"""Local pages: the playground of `derta explore`, and the labelling page of `derta label --page`.

They are served by Starlette on 127.0.0.1 (extra `ui`). Texts of models and files reach the browser as JSON and are set
as text, never as HTML; the pages load nothing from other hosts.
"""
