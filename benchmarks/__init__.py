"""Speed and strength of tfadv beside other libraries, and beside older versions of itself; see README.md."""
