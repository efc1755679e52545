"""Checks rendered manifests (arguments: files of `kubectl kustomize`) beyond their schemas: references agree with each
other and with the server's sources."""
import re
import sys
import tomllib
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from metric_names import ROOT, exported

PUBLISH_GRACE_S, DRAIN_GRACE_S, CONTROL_GRACE_S = (
    int(re.search(rf"{name}: Duration = Duration::from_secs\((\d+)\)", (ROOT / "src/server.rs").read_text())[1])
    for name in ("PUBLISH_GRACE", "DRAIN_GRACE", "CONTROL_GRACE")
)
ROUTES = set(re.findall(r'\.route\("([^"]+)", get\(', (ROOT / "src/http/routes.rs").read_text()))
POSTS = set(re.findall(r'\.route\("([^"]+)", post\(', (ROOT / "src/http/routes.rs").read_text()))
# Programs in the image, and commands of the server.
IMAGE = set(re.findall(r" /image(/(?:usr/local/)?s?bin/\S+)", (ROOT / "Dockerfile").read_text()))
COMMANDS = {re.sub(r"(?<!^)([A-Z])", r"-\1", name).lower() for name in re.findall(
    r"(?m)^    ([A-Z]\w+)[({ ]", re.search(r"enum Command \{(.*?)\n\}", (ROOT / "src/cli/command.rs").read_text(), re.S)[1])}
faults = []


def must(true, what):
    if not true:
        faults.append(what)


def selects(selector, labels):
    return bool(selector) and selector.items() <= labels.items()


def check(path):
    documents = [d for d in yaml.safe_load_all(Path(path).read_text()) if d]
    kinds = {}
    for d in documents:
        kinds.setdefault(d["kind"], []).append(d)
    at = lambda what: f"{path}: {what}"
    one = lambda kind: kinds[kind][0]
    for kind in ("Deployment", "Service", "ConfigMap", "HorizontalPodAutoscaler", "PodDisruptionBudget",
                 "NetworkPolicy", "ServiceMonitor", "Namespace"):
        if kind not in kinds:
            must(False, at(f"no {kind}"))
            return
    namespace = one("Namespace")["metadata"]["name"]
    for d in documents:
        must(d["kind"] == "Namespace" or d["metadata"].get("namespace") == namespace,
             at(f"{d['kind']} {d['metadata']['name']} is not in {namespace}"))

    deployment = one("Deployment")
    template = deployment["spec"]["template"]
    labels, pod = template["metadata"]["labels"], template["spec"]
    container = pod["containers"][0]
    config = tomllib.loads(one("ConfigMap")["data"]["nexus-push.toml"])

    # Selectors.
    must(selects(deployment["spec"]["selector"]["matchLabels"], labels), at("the Deployment does not select its pods"))
    must(selects(one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"], labels), at("the PDB selects no pod"))
    must(any(selects(p["spec"]["podSelector"]["matchLabels"], labels) for p in kinds["NetworkPolicy"]),
         at("no NetworkPolicy selects the pods"))
    for constraint in pod["topologySpreadConstraints"]:
        must(selects(constraint["labelSelector"]["matchLabels"], labels), at("a spread constraint selects no pod"))
    read = [s for s in kinds["Service"] if selects(one("ServiceMonitor")["spec"]["selector"]["matchLabels"],
                                                   s["metadata"]["labels"])]
    must(len(read) == 1, at(f"the ServiceMonitor reads {len(read)} Services, and should read one"))

    # Ports and paths.
    ports = {p["name"]: p["containerPort"] for p in container["ports"]}
    must(int(config["server"]["listen"].rsplit(":", 1)[1]) in ports.values(), at("server.listen is no port of the pod"))
    must(config["server"]["listen"].startswith("0.0.0.0:"), at("server.listen is not reachable from outside the pod"))
    for service in kinds["Service"]:
        name = service["metadata"]["name"]
        must(selects(service["spec"]["selector"], labels), at(f"Service {name} selects no pod"))
        for port in service["spec"]["ports"]:
            must(port["targetPort"] in ports, at(f"Service {name}: there is no port {port['targetPort']}"))
    for endpoint in one("ServiceMonitor")["spec"]["endpoints"]:
        must(all(endpoint["port"] in [p["name"] for p in s["spec"]["ports"]] for s in read), at("ServiceMonitor: port"))
        must(endpoint["path"] in ROUTES, at(f"ServiceMonitor: the server has no {endpoint['path']}"))
    policy = next(p for p in kinds["NetworkPolicy"] if selects(p["spec"]["podSelector"]["matchLabels"], labels))
    for rule in policy["spec"]["ingress"]:
        must(all(p["port"] in ports for p in rule["ports"]), at("NetworkPolicy: a port that the pod does not have"))
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        get = container[probe]["httpGet"]
        must(get["path"] in ROUTES and get["port"] in ports, at(f"{probe}: {get}"))
    for port in (config["server"]["health_listen"], config["operator"]["listen"]):
        must(int(port.rsplit(":", 1)[1]) in ports.values(), at(f"{port} is no port of the pod"))
    must(container["readinessProbe"]["httpGet"]["path"] == "/readyz", at("readiness does not ask /readyz"))
    must(container["livenessProbe"]["httpGet"]["path"] == "/healthz", at("liveness does not ask /healthz"))

    # The time for a stop.
    seconds = lambda text: int(re.fullmatch(r"(\d+)s", text)[1])
    needs = (int(container["lifecycle"]["preStop"]["exec"]["command"][1]) + PUBLISH_GRACE_S
             + seconds(config["server"]["drain_window"]) + DRAIN_GRACE_S + CONTROL_GRACE_S)
    must(pod["terminationGracePeriodSeconds"] > needs, at(f"a stop takes up to {needs} s, more than is granted"))

    # Files.
    mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
    files = set()
    for volume in pod["volumes"]:
        must(volume["name"] in mounts, at(f"volume {volume['name']} is not mounted"))
        if "configMap" in volume:
            must(volume["configMap"]["name"] == one("ConfigMap")["metadata"]["name"], at("the ConfigMap's name"))
            files |= {f"{mounts[volume['name']]}/{key}" for key in one("ConfigMap")["data"]}
        else:
            files |= {f"{mounts[volume['name']]}/{item['path']}" for item in volume["secret"]["items"]}
    keys = [k.get("public_key_file") or k.get("secret_file") for k in config["access"]["keys"]]
    for file in [*keys, *config["publish"]["key_files"], config["operator"]["key_file"], container["args"][container["args"].index("--config") + 1]]:
        must(file in files, at(f"{file} is not mounted"))
    must("url" not in config["source"]["redis"], at("source.redis.url may hold a password: it belongs into the Secret"))
    environment = [e["name"] for e in container["env"]]
    must("NEXUS_SOURCE__REDIS__URL" in environment, at("no NEXUS_SOURCE__REDIS__URL"))
    for variable in container["env"]:
        for used in re.findall(r"\$\((\w+)\)", variable.get("value", "")):
            must(used in environment[: environment.index(variable["name"])], at(f"$({used}) is not set before its use"))

    # Scaling.
    hpa = one("HorizontalPodAutoscaler")["spec"]
    target = hpa["scaleTargetRef"]
    must((target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"]), at("the HPA's target"))
    must("replicas" not in deployment["spec"], at("replicas are set, and the HPA sets them too"))
    must(one("PodDisruptionBudget")["spec"]["maxUnavailable"] < hpa["minReplicas"], at("the PDB lets all pods go"))
    pods = next(m["pods"] for m in hpa["metrics"] if m["type"] == "Pods")
    metric = pods["metric"]["name"]
    rules = yaml.safe_load((Path(__file__).parent / "prometheus-adapter.yaml").read_text())["rules"]
    must(metric in exported(), at(f"HPA: the server has no metric {metric}"))
    must(metric in [r["name"]["as"] for r in rules], at(f"HPA: prometheus-adapter.yaml does not give {metric}"))
    must(all(r["seriesQuery"].split("{")[0] in exported() for r in rules), "prometheus-adapter.yaml: an unknown metric")
    must(int(pods["target"]["averageValue"]) * 2 <= config["server"]["max_sessions"],
         at("the HPA's target is more than half of server.max_sessions: half of the pods could not hold everybody"))

    # Permissions of the pod.
    secure, inside = pod["securityContext"], container["securityContext"]
    must(secure["runAsNonRoot"] and secure["seccompProfile"]["type"] == "RuntimeDefault", at("the pod's securityContext"))
    must(f"USER {secure['runAsUser']}" in (ROOT / "Dockerfile").read_text(), at("runAsUser is not the image's user"))
    must(inside["readOnlyRootFilesystem"] and not inside["allowPrivilegeEscalation"]
         and inside["capabilities"]["drop"] == ["ALL"], at("the container's securityContext"))


    # Commands exist in the image, which has no shell.
    for spec in [pod, *(j["spec"]["jobTemplate"]["spec"]["template"]["spec"] for j in kinds.get("CronJob", []))]:
        for started in spec["containers"] + spec.get("initContainers", []):
            hooks = [started.get(probe, {}) for probe in ("startupProbe", "livenessProbe", "readinessProbe")]
            hooks += started.get("lifecycle", {}).values()
            for command in [started.get("command"), *(hook.get("exec", {}).get("command") for hook in hooks)]:
                must(command is None or command[0] in IMAGE, at(f"{started['name']}: the image has no {command and command[0]}"))
            if started["image"].split(":")[0] == "nexus-push" and "command" not in started:
                must(started["args"][0] in COMMANDS, at(f"{started['name']}: nexus-push has no command {started['args'][0]}"))

    # Rebalancing: a job that sends a request to every pod.
    for job in kinds.get("CronJob", []):
        asking = job["spec"]["jobTemplate"]["spec"]["template"]
        name, its = job["metadata"]["name"], asking["metadata"]["labels"]
        script = " ".join([*asking["spec"]["containers"][0].get("command", []), *asking["spec"]["containers"][0]["args"]])
        must(not any(selects(s["spec"]["selector"], its) for s in kinds["Service"]), at(f"a Service selects {name}"))
        must(any(selects(peer.get("podSelector", {}).get("matchLabels", {}), its)
                 for rule in policy["spec"]["ingress"] for peer in rule.get("from", [])
                 if any(p["port"] == "operator" for p in rule["ports"])), at(f"{name} may not ask the pods"))
        must(any(selects(p["spec"]["podSelector"]["matchLabels"], its) for p in kinds["NetworkPolicy"]),
             at(f"no NetworkPolicy selects {name}"))
        headless = [s["metadata"]["name"] for s in kinds["Service"] if s["spec"].get("clusterIP") == "None"]
        must(any(f" {s}:" in script for s in headless), at(f"{name} asks for the pods of no headless Service"))
        must(all(int(port) in ports.values() for port in re.findall(r":(\d+)", script)), at(f"{name}: a port of no pod"))
        operators = config.get("operator", {})
        must(all(port == operators["listen"].rsplit(":", 1)[1] for port in re.findall(r":(\d+)", script)),
             at(f"{name} does not ask the operators' port, which is the one with /admin"))
        given = {f"{m['mountPath']}/{item['path']}": item["key"]
                 for m in asking["spec"]["containers"][0]["volumeMounts"] for v in asking["spec"]["volumes"]
                 if v["name"] == m["name"] for item in v["secret"]["items"]}
        must(set(given) == set(re.findall(r"--key-file (\S+)", script)), at(f"{name}: its key is not what is mounted"))
        must(given == {operators["key_file"]: "operator.key"}, at(f"{name} holds another key than the operators'"))
        must("env" not in asking["spec"]["containers"][0], at(f"{name}: secrets are files here"))
        must("/admin/drain" in POSTS, at(f"{name}: the server has no /admin/drain"))
        secure, inside = asking["spec"]["securityContext"], asking["spec"]["containers"][0]["securityContext"]
        must(secure["runAsNonRoot"] and inside["readOnlyRootFilesystem"] and inside["capabilities"]["drop"] == ["ALL"],
             at(f"{name}: its securityContext"))


for path in sys.argv[1:]:
    check(path)
print("\n".join(faults) or f"{len(sys.argv) - 1} renderings agree with themselves and the server")
sys.exit(bool(faults))
