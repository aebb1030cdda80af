"""The arguments of `scow registry import`, apart from what imports: other commands don't need that."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("source", metavar="DIR|URL", help="folder of docker's registry, OCI layout, registry's URL")
    parser.add_argument(
        "--only",
        metavar="REPOSITORY",
        action="append",
        default=[],
        help="only these, may be repeated; * stands within a component, ** across",
    )
    parser.add_argument("--namespace", metavar="NAME", default="", help="put this before the repositories' names")
    parser.add_argument("--repository", metavar="NAME", default="", help="where images of an OCI layout go")
    parser.add_argument("--no-verify", action="store_true", help="don't check the digest of every blob of a folder")
    parser.add_argument("--platform", metavar="OS/ARCH", action="append", default=[], help="of a registry's indexes")
    parser.add_argument("--username", metavar="NAME", default="", help="log in at the registry")
    parser.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    parser.add_argument("--insecure", action="store_true", help="take any certificate of the registry")
    parser.add_argument("--quiet", "-q", action="store_true", help="print the sums only")
