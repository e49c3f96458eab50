"""Start of the command line. Help is answered from rendered text: importing click alone takes longer than Python's start."""
import sys


def main() -> None:
    """Entry point of the `edgepress` command."""
    words = sys.argv[1:]
    if words and words[-1] in ("-h", "--help") and "-h" not in words[:-1] and "--help" not in words[:-1]:
        if help_text(words[:-1]):
            return
    from edgepress.cli import start

    start()


def help_text(command: "list[str]") -> bool:
    """Print the rendered help of `command` (a list of words); False if there is none.

    `help.txt` is made by `python -m edgepress.cli` from the commands themselves, and a test compares the two.
    """
    import os.path

    path = os.path.join(os.path.dirname(__file__), "data", "help.txt")
    with open(path, encoding="utf-8") as file:
        for chapter in file.read().split("\x0c"):
            name, _, text = chapter.partition("\n")
            if name == " ".join(command):
                sys.stdout.write(text)
                return True
    return False


if __name__ == "__main__":
    main()
