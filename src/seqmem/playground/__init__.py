"""A page in the browser that runs the models: ``bundle`` gathers what it shows, ``page`` makes one HTML file of it.

Beside the Python stand the page's own sources: ``page.html``, ``style.css`` and JavaScript modules, of which
``engine.js`` computes the cells.
"""
