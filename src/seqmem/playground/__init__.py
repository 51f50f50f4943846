"""A page for the browser that runs trained models: ``bundle`` gathers its data, ``page`` builds one HTML file.

The page's own sources stand beside: ``page.html``, ``style.css`` and JavaScript modules, of which ``cells.js`` and
``engine.js`` compute the cells and the models.
"""
