"""Documentation comment to function: npm packages, and Debian sources in many languages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from culet.corpora.corpus import Corpus
from culet.corpora.readers.braces import functions, language_of
from culet.corpora.readers.comments import is_of_interest, without_header
from culet.corpora.readers.packages import Package
from culet.corpora.rows import Pair, Row, Text
from culet.corpora.sources.python_code import LANG as PYTHON
from culet.corpora.sources.python_code import functions as python_functions

_MAX_BYTES = 400_000
_TEXT_CHARS = range(500, 20_000)
_MAX_TEXTS = 60  # of a package and language
_MAX_PAIRS = 4000  # of a package
_MINIFIED = 200  # characters a line, on average

_NPM = (
    "ajv antd async axios bignumber.js bluebird bootstrap chart.js cheerio commander compromise "
    "crypto-js cytoscape d3-array d3-scale date-fns ejs eslint ethers express fastify fp-ts "
    "gl-matrix handlebars hls.js immutable joi jose jsdom knex koa konva lodash luxon maplibre-gl "
    "marked mathjs ml-matrix mobx moment natural node-forge ol openpgp paper pdf-lib phaser pino "
    "postcss preact puppeteer-core ramda redux rxjs sequelize simple-statistics socket.io "
    "solid-js svelte three tone typeorm underscore validator video.js vuetify winston yargs yup "
    "zod zustand @babel/parser @nestjs/common @nestjs/core @tensorflow/tfjs-core @types/node "
    "@types/jquery @types/lodash"
)
_SOURCES = (
    "golang-github-spf13-cobra golang-github-gorilla-mux golang-testify golang-golang-x-text "
    "golang-golang-x-net golang-google-grpc golang-github-gin-gonic-gin golang-github-miekg-dns "
    "deb:librust-regex-dev deb:librust-serde-dev deb:librust-rand-dev deb:librust-itertools-dev "
    "deb:librust-chrono-dev deb:librust-rayon-dev deb:librust-clap-dev deb:librust-hashbrown-dev "
    "deb:librust-nom-dev deb:librust-bytes-dev deb:librust-image-dev deb:librust-tokio-dev "
    "libcommons-lang3-java libcommons-collections4-java guava-libraries libjoda-time-java jsoup "
    "libgoogle-gson-java junit4 commons-math3 symfony composer php-twig phpunit "
    "glib2.0 libgit2 jansson libevent zlib libarchive curl cairo pango1.0 eigen3 fmtlib"
)


def _read(package: Package) -> Iterator[Row]:
    texts: Counter[str] = Counter()
    pairs = 0
    for name, data in package.members(_is_source):
        source = data.decode("utf-8", "replace").replace("\r\n", "\n")
        if len(data) > _MAX_BYTES or len(source) > _MINIFIED * (source.count("\n") + 1):
            continue
        language = language_of(name)
        lang = f"code-{language.name}" if language else PYTHON
        if len(source) in _TEXT_CHARS and texts[lang] < _MAX_TEXTS and not name.endswith(".d.ts"):
            texts[lang] += 1
            yield Text(without_header(source), lang)
        for pair in functions(source, language) if language else python_functions(source):
            pairs += 1
            if pairs <= _MAX_PAIRS:
                yield Pair(pair.query, pair.positive, pair.lang, pair.part)


def _is_source(name: str) -> bool:
    # Bundles repeat what stands beside them file by file.
    inner = name.partition("/")[2]
    known = language_of(name) is not None or name.endswith(".py")
    return known and is_of_interest(inner) and not inner.startswith(("debian/", "dist/umd"))


CODE_NPM = Corpus(
    name="code-npm",
    about="JSDoc comment to JavaScript or TypeScript function or declaration, from npm packages.",
    licence="MIT, Apache-2.0, BSD, ISC and others, per package",
    kind="npm",
    packages=tuple(_NPM.split()),
    read=_read,
    lowest_query=4,
    same_query=2,
    same_positive=1,
    only_free=True,
)
CODE_DEBIAN = Corpus(
    name="code-debian",
    about="Documentation comment to Go, Rust, Java, PHP, C, C++ function, from Debian's sources.",
    licence="the licence of each package, all free by Debian's guidelines",
    kind="src",
    packages=tuple(_SOURCES.split()),
    read=_read,
    lowest_query=4,
    same_query=2,
    same_positive=1,
)
