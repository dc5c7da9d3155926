"""Images, compose file and units fit the programs, as far as that can be seen without building an
image: what is copied exists, what is loaded is installed, what is started is accepted. Budget: 20 s.
"""

import fnmatch
import functools
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import tempfile
import unittest

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[3]
BIN = pathlib.Path(os.environ.get("FACET_BIN", ROOT / "build/dev/bin"))
DEPLOY = ROOT / "deploy"
PROGRAMS = {"router": ["facet", "facet-router"], "worker-cpu": ["facet-worker"],
            "worker-cuda": ["facet-worker"]}
EXPOSURE_MAX = 20  # Of systemd-analyze security, in tenths; 100 is no protection at all.


def stages():
    """Name → (what it is FROM, its instructions as (word, rest))."""
    text = re.sub(r"\\\n", " ", (DEPLOY / "images/Dockerfile").read_text())
    found, current = {}, None
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            source, _, name = rest.partition(" AS ")
            current = found.setdefault(name, (source, []))
        elif word and not word.startswith("#") and current:
            current[1].append((word, rest.strip()))
    return found


def instructions(name):
    """Of a stage and of those that it stands on."""
    source, own = stages()[name]
    return (instructions(source) if source in stages() else []) + own


def installed_by(name):
    found = set()
    for word, rest in instructions(name):
        for packages in re.findall(r"apt-get install ([^&;|]*)", rest) if word == "RUN" else []:
            found |= {it for it in packages.split() if not it.startswith("-")}
    return found


@functools.cache
def depends():
    """Package → the first choice of each thing it needs, for all that is installed here."""
    listed = subprocess.run(["dpkg-query", "-W", "-f=${Package}\t${Depends},${Pre-Depends}\n"],
                            capture_output=True, text=True, check=True).stdout
    return {name: [re.split(r"[ :(|]", it.strip())[0] for it in needs.split(",") if it.strip()]
            for name, _, needs in (line.partition("\t") for line in listed.splitlines())}


def with_dependencies(packages):
    known, todo = set(), list(packages)
    while todo:
        package = todo.pop()
        if package not in known:
            known.add(package)
            todo += depends().get(package, [])
    return known


def libraries():
    """Program → the files that it loads."""
    found = {}
    for program in {it for programs in PROGRAMS.values() for it in programs}:
        listed = subprocess.run(["ldd", BIN / program], capture_output=True, text=True,
                                check=True).stdout
        assert "not found" not in listed, listed
        found[program] = [str(pathlib.Path(it).resolve())
                          for it in re.findall(r"=> (/\S+)", listed)]
    return found


def owners(paths):
    """File → its package. dpkg may know a file by its path before /usr was merged."""
    listed = subprocess.run(["dpkg", "-S", *paths, *(it.removeprefix("/usr") for it in paths)],
                            capture_output=True, text=True).stdout
    found = {path: package.split(":")[0]
             for package, _, path in (line.rpartition(": ") for line in listed.splitlines())}
    return {path: found.get(path) or found[path.removeprefix("/usr")] for path in paths}


class DockerfileTest(unittest.TestCase):

    def test_what_is_copied_is_there(self):
        ignored = [line for line in (ROOT / ".dockerignore").read_text().split() if "*" not in line]
        for name, (_, own) in stages().items():
            for word, rest in own:
                if word != "COPY":
                    continue
                *sources, _ = [it for it in rest.split() if not it.startswith("--")]
                stage = re.search(r"--from=(\S+)", rest)
                for source in sources:
                    if stage:
                        self.assertIn(stage[1], stages(), name)
                        made = " ".join(rest for _, rest in instructions(stage[1]))
                        self.assertIn(source.removeprefix("/out/"), made, name)
                    else:
                        self.assertTrue((ROOT / source).exists(), source)
                        self.assertFalse(any(fnmatch.fnmatch(source, it) or source.startswith(it + "/")
                                             for it in ignored), source)

    def test_bases_have_versions_and_nobody_is_root(self):
        text = (DEPLOY / "images/Dockerfile").read_text()
        self.assertRegex(text, r"(?m)^ARG DEBIAN=debian:12\.\d+-slim$")
        for name, (source, _) in stages().items():
            self.assertTrue(source in stages() or source == "${DEBIAN}", source)
        self.assertNotIn(":latest", text)
        for name in [*PROGRAMS, "downloader"]:
            users = [rest for word, rest in instructions(name) if word == "USER"]
            self.assertIn(users[-1], ("65532", "65532:65532"), name)

    def test_packages_hold_every_library_that_is_loaded(self):
        loaded = libraries()
        package_of = owners(sorted({path for paths in loaded.values() for path in paths}))
        for stage, programs in PROGRAMS.items():
            have = with_dependencies(installed_by(stage) | {"libc6"})
            for program in programs:
                for path in loaded[program]:
                    self.assertIn(package_of[path], have, f"{stage}: {program} loads {path}")

    def test_a_package_that_is_left_out_is_found(self):
        have = with_dependencies(installed_by("worker-cpu") - {"libgloo0"})
        self.assertNotIn("libgloo0", have)
        self.assertIn("libgrpc29", have)

    def test_the_chart_names_what_the_images_hold(self):
        values = yaml.safe_load((ROOT / "helm/facet/values.yaml").read_text())
        text = (DEPLOY / "images/Dockerfile").read_text()
        built = set(re.findall(r"-t (facet/[\w-]+):", text))
        self.assertEqual({it["repository"] for it in values["images"].values()}, built)
        copied = [rest for word, rest in instructions("router") if word == "COPY"]
        self.assertIn("deploy/demo/models /usr/share/facet/models", copied)
        for model in values["models"]:
            name = model["directory"].removeprefix("/usr/share/facet/models/")
            self.assertTrue((DEPLOY / "demo/models" / name).is_dir())
        self.assertIn(f"USER {values['runAsUser']}:", text)


class ComposeTest(unittest.TestCase):

    def setUp(self):
        self.folder = DEPLOY / "compose"
        self.compose = yaml.safe_load((self.folder / "compose.yaml").read_text())
        self.services = self.compose["services"]

    def test_services_say_what_they_need(self):
        known = {"image", "command", "ports", "volumes", "networks", "restart", "read_only",
                 "cap_drop", "security_opt", "stop_grace_period", "healthcheck", "depends_on",
                 "environment"}
        for name, service in self.services.items():
            self.assertLessEqual(set(service), known, name)
            image = re.sub(r"\$\{\w+:-(.*)\}", r"\1", service["image"])
            self.assertRegex(image, r":v?\d+\.\d+", name)
            self.assertLessEqual(set(service["depends_on"] if "depends_on" in service else ()),
                                 set(self.services))
            for port in service.get("ports", []):
                self.assertTrue(port.startswith("127.0.0.1:"), "published beyond this machine")
            for volume in service["volumes"]:
                source = volume.split(":")[0]
                if source.startswith("."):
                    self.assertTrue((self.folder / source).exists(), source)
                else:
                    self.assertIn(source, self.compose["volumes"])

    def test_the_programs_take_config_commands_and_health_checks(self):
        config = str(self.folder / "cluster.yaml")
        for name, service in self.services.items():
            if not service["image"].startswith("${FACET"):
                continue
            health = service["healthcheck"]["test"]
            self.assertEqual((health[0], health[-1]), ("CMD", "--health"))
            for command in (service["command"], health[1:-1]):
                words = [it.replace("/etc/facet/config/cluster.yaml", config) for it in command]
                done = subprocess.run([BIN / words[0], *words[1:], "--check-config"],
                                      capture_output=True, text=True, timeout=20)
                self.assertEqual((done.returncode, done.stderr), (0, ""), name)

    def test_prices_and_ledger_are_mounted_where_the_config_says(self):
        config = yaml.safe_load((self.folder / "cluster.yaml").read_text())
        prices = yaml.safe_load((self.folder / "prices/prices.yaml").read_text())["prices"]
        self.assertLessEqual({pool.get("device_class", "cpu") for pool in config["pools"]},
                             {it["device_class"] for it in prices})
        for name in ("router", "worker-0", "worker-1"):
            mounts = dict(volume.split(":")[1::-1] for volume in self.services[name]["volumes"])
            self.assertEqual(mounts[os.path.dirname(config["prices_file"])], "./prices", name)
            self.assertIn(mounts[config["ledger_directory"]], self.compose["volumes"], name)
            self.assertNotIn(f"ledger:{config['ledger_directory']}:ro", self.services[name]["volumes"])
        # Where the ledger is mounted is writable for the user of the images.
        for stage in PROGRAMS:
            made = [rest for word, rest in instructions(stage) if word == "RUN" and "install -d" in rest]
            self.assertRegex(made[0], rf"-o 65532 -g 65532 {config['ledger_directory']}$")

    def test_ends_are_waited_for(self):
        config = yaml.safe_load((self.folder / "cluster.yaml").read_text())
        drain_ms = max([config["router"]["drain_ms_max"]]
                       + [pool["drain_ms_max"] for pool in config["pools"]])
        for name in ("router", "worker-0", "worker-1"):
            grace = int(self.services[name]["stop_grace_period"].removesuffix("s"))
            self.assertGreaterEqual(grace, drain_ms / 1000 + 5)

    def test_prometheus_scrapes_every_process_and_grafana_finds_it(self):
        path = self.folder / "prometheus/prometheus.yaml"
        checked = subprocess.run(["promtool", "check", "config", "--syntax-only", path],
                                 capture_output=True, text=True, timeout=20)
        self.assertEqual(checked.returncode, 0, checked.stderr)
        scraped = yaml.safe_load(path.read_text())["scrape_configs"][0]["static_configs"][0]["targets"]
        config = yaml.safe_load((self.folder / "cluster.yaml").read_text())
        wanted = ["router:" + config["router"]["metrics_address"].split(":")[1]]
        wanted += [it["metrics_address"] for it in config["pools"][0]["workers"]]
        self.assertEqual(scraped, wanted)
        for target in scraped:
            self.assertIn(target.split(":")[0], self.services)
        source, = yaml.safe_load((self.folder / "grafana/provisioning/datasources/prometheus.yaml")
                                 .read_text())["datasources"]
        self.assertEqual(source["url"], "http://prometheus:9090")
        provider, = yaml.safe_load((self.folder / "grafana/provisioning/dashboards/facet.yaml")
                                   .read_text())["providers"]
        self.assertIn(f"../dashboards:{provider['options']['path']}:ro",
                      self.services["grafana"]["volumes"])


class UnitsTest(unittest.TestCase):

    def setUp(self):
        temporary = tempfile.TemporaryDirectory(prefix="facet-units-")
        self.addCleanup(temporary.cleanup)
        self.folder = pathlib.Path(temporary.name)
        for path in (DEPLOY / "systemd").glob("*.service"):
            text = path.read_text().replace("/usr/bin/facet-router", str(BIN / "facet-router"))
            (self.folder / path.name).write_text(text)
        shutil.copy(self.folder / "facet-worker@.service", self.folder / "facet-worker@e4b-0.service")

    def Analyze(self, *arguments):
        return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True,
                              timeout=30, cwd=self.folder)

    def test_systemd_understands_the_units(self):
        for name in ("facet-router.service", "facet-worker@e4b-0.service"):
            done = self.Analyze("verify", f"./{name}")
            self.assertEqual((done.returncode, done.stderr), (0, ""), name)

    def test_units_are_confined(self):
        for name in ("facet-router.service", "facet-worker@e4b-0.service"):
            done = self.Analyze("security", "--offline=true", f"--threshold={EXPOSURE_MAX}", f"./{name}")
            self.assertEqual(done.returncode, 0, done.stdout[-400:])

    def test_router_and_workers_share_the_ledgers_directory(self):
        """Two dynamic users would take each other's files away at every start."""
        wanted = {"DynamicUser=yes", "User=facet", "StateDirectory=facet"}
        for path in (DEPLOY / "systemd").glob("*.service"):
            self.assertLessEqual(wanted, set(path.read_text().splitlines()), path.name)

    def test_a_workers_instance_is_its_pool_and_index(self):
        unit = (DEPLOY / "systemd/facet-worker@.service").read_text()
        command, = re.findall(r"^ExecStart=(.*)$", unit, re.M)
        shell = shlex.split(command.replace("%%", "%").replace("$$", "$"))
        shell[-1] = shell[-1].replace("exec /usr/bin/facet-worker", "echo")
        done = subprocess.run(shell, capture_output=True, text=True, timeout=10,
                              env={"FACET_WORKER": "big-pool-12"})
        self.assertIn("--pool big-pool --index 12", done.stdout)


if __name__ == "__main__":
    unittest.main()
