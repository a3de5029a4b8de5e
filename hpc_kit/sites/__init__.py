"""From a site file to command lines and to Parsl."""
