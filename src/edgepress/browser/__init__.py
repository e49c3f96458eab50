"""Any phone, no app, no cable: the page that runs a model in a browser, the server that hands it over, and the same page as a folder for any web server."""
