"""Set-up and documentation tooling of the repository; not part of the installed package."""
