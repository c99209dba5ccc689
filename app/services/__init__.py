"""Use cases of the API, the console and the command line. Each public function is one transaction, unless its docstring says
otherwise."""
