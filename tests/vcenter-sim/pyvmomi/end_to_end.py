"""Drives a running simulator as an ordinary pyvmomi client would; any difference ends it with a traceback.

    python end_to_end.py ADDRESSES.json FOLDER

The simulator serves the VMs `web` (two disks), `db` (with an independent and an RDM disk) and `golden` (a template),
with three areas and two objects a page. FOLDER takes what is read over NBD.
"""
import http.client
import json
import ssl
import subprocess
import sys
import urllib.error
import urllib.request

from pyVim.connect import Disconnect, SmartConnect
from pyVim.task import WaitForTask, WaitForTasks
from pyVmomi import vim, vmodl

BLOCK = 65536


class Simulator:
    """The addresses, and the control routes behind them."""

    def __init__(self, addresses):
        self.addresses = addresses
        self.host, self.port = addresses["url"].removeprefix("https://").removesuffix("/sdk").split(":")

    def connect(self, password=None):
        return SmartConnect(host=self.host, port=int(self.port), user=self.addresses["username"],
                            pwd=password or self.addresses["password"], thumbprint=self.addresses["thumbprint"],
                            httpConnectionTimeout=60)

    def control(self, method, path, body=None):
        request = urllib.request.Request(self.addresses["control_url"] + path, data=body, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()

    def fault(self, name, arg=None, times=None):
        self.control("POST", "/faults", json.dumps({"name": name, "arg": arg, "times": times}).encode())

    def write(self, vm, disk, offset, data):
        self.control("POST", f"/vms/{vm}/disks/{disk}/write?offset={offset}", data)


def raises(kind, call, check=lambda fault: True):
    try:
        call()
    except kind as fault:
        assert type(fault) is kind, f"{type(fault)} where {kind} was expected"
        assert check(fault), fault
        return fault
    raise AssertionError(f"no {kind} came")


def collect(content, kind, paths, max_objects=None):
    """Reads properties the usual way: a container view, a traversal, and pages."""
    collector = content.propertyCollector
    view = content.viewManager.CreateContainerView(content.rootFolder, [kind], True)
    specification = vmodl.query.PropertyCollector.FilterSpec(
        objectSet=[vmodl.query.PropertyCollector.ObjectSpec(
            obj=view, skip=True, selectSet=[vmodl.query.PropertyCollector.TraversalSpec(
                name="view", type=vim.view.ContainerView, path="view", skip=False)])],
        propSet=[vmodl.query.PropertyCollector.PropertySpec(type=kind, pathSet=paths)])
    options = vmodl.query.PropertyCollector.RetrieveOptions(maxObjects=max_objects)
    answer, pages, found = collector.RetrievePropertiesEx([specification], options), 0, []
    while answer is not None:
        pages += 1
        found.extend(answer.objects)
        answer = collector.ContinueRetrievePropertiesEx(answer.token) if answer.token else None
    view.Destroy()
    return [{"obj": one.obj, **{p.name: p.val for p in one.propSet}} for one in found], pages


def changed_areas(vm, snapshot, key, since, capacity):
    """The loop over pages; it also says how many of them were empty."""
    offset, areas, empty, pages = 0, [], 0, 0
    while offset < capacity:
        page = vm.QueryChangedDiskAreas(snapshot, key, offset, since)
        assert page.startOffset == offset and page.length > 0, page
        assert all(offset <= a.start and a.start + a.length <= offset + page.length for a in page.changedArea)
        areas.extend((a.start, a.length) for a in page.changedArea)
        empty += not page.changedArea
        pages += 1
        offset += page.length
    return areas, pages, empty


def disks_of(config):
    return [device for device in config.hardware.device if isinstance(device, vim.vm.device.VirtualDisk)]


def snapshot_of(si, vm, name, quiesce=False):
    task = vm.CreateSnapshot_Task(name, "made by the test", False, quiesce)
    WaitForTask(task, si=si)
    return task.info.result


def check_login(simulator):
    raises(vim.fault.InvalidLogin, lambda: simulator.connect("wrong"))
    simulator.fault("InvalidLogin")
    raises(vim.fault.InvalidLogin, simulator.connect)
    si = simulator.connect()
    content = si.RetrieveContent()
    assert content.about.apiType == "VirtualCenter" and content.about.apiVersion == "8.0.3.0"
    assert content.sessionManager.currentSession.userName == simulator.addresses["username"]
    assert si.CurrentTime().year >= 2024
    return si


def check_inventory(content):
    rows, pages = collect(content, vim.VirtualMachine, ["name", "config.instanceUuid", "runtime.powerState",
                                                        "config.hardware.device", "capability.changeTrackingSupported",
                                                        "summary.config.template", "snapshot", "parent"])
    assert pages == 2, f"three VMs at two a page came on {pages} pages"
    rows = {row["name"]: row for row in rows}
    assert sorted(rows) == ["db", "golden", "web"]
    _, pages = collect(content, vim.VirtualMachine, ["name"], max_objects=1)
    assert pages == 3
    web = rows["web"]
    assert web["runtime.powerState"] == "poweredOn" and "snapshot" not in web
    assert web["capability.changeTrackingSupported"] and rows["golden"]["summary.config.template"]
    disks = [d for d in web["config.hardware.device"] if isinstance(d, vim.vm.device.VirtualDisk)]
    assert [d.key for d in disks] == [2000, 2001]
    assert [d.backing.fileName for d in disks] == ["[datastore1] web/web.vmdk", "[datastore1] web/web_1.vmdk"]
    assert disks[0].capacityInBytes == disks[0].capacityInKB * 1024
    backings = [device.backing for device in disks_of(rows["db"]["obj"].config)]
    assert isinstance(backings[0], vim.vm.device.VirtualDisk.FlatVer2BackingInfo)
    assert isinstance(backings[1], vim.vm.device.VirtualDisk.RawDiskMappingVer1BackingInfo)
    assert backings[1].compatibilityMode == "physicalMode"
    assert [backing.diskMode for backing in backings] == ["independent_persistent"] * 2
    vm = content.searchIndex.FindByInventoryPath("Datacenter/vm/web")
    assert vm == web["obj"] and vm.name == "web" and vm.parent.parent.name == "Datacenter"
    assert content.searchIndex.FindByUuid(None, web["config.instanceUuid"], True, True) == vm
    names = [child.name for child in content.rootFolder.childEntity[0].vmFolder.childEntity]
    assert names == ["web", "db", "golden"]
    assert vm.runtime.host.name and vm.datastore[0].summary.type == "VMFS"
    for kind in (vim.Folder, vim.Datacenter, vim.HostSystem, vim.Datastore, vim.Network, vim.ComputeResource,
                 vim.ResourcePool):
        rows, _ = collect(content, kind, ["name", "parent", "overallStatus"])
        assert rows and all(row["name"] for row in rows), kind
    collector = content.propertyCollector
    bad = vmodl.query.PropertyCollector.FilterSpec(
        objectSet=[vmodl.query.PropertyCollector.ObjectSpec(obj=vm)],
        propSet=[vmodl.query.PropertyCollector.PropertySpec(type=vim.VirtualMachine, pathSet=["config.hardware.devices"])])
    raises(vmodl.query.InvalidProperty, lambda: collector.RetrieveProperties([bad]))
    return vm


def check_everything_is_readable(content, vm, snapshot):
    """Reads every property of every object, so that each answer is parsed by pyvmomi's own types."""
    collector = content.propertyCollector
    for one in [vm, snapshot, content.rootFolder, vm.runtime.host, vm.datastore[0], vm.resourcePool,
                vm.network[0], vm.runtime.host.parent, content.rootFolder.childEntity[0], content.sessionManager,
                content.taskManager, content.taskManager.recentTask[0]]:
        everything = vmodl.query.PropertyCollector.FilterSpec(
            objectSet=[vmodl.query.PropertyCollector.ObjectSpec(obj=one)],
            propSet=[vmodl.query.PropertyCollector.PropertySpec(type=type(one), all=True)])
        [found] = collector.RetrieveProperties([everything])
        assert found.obj == one and (found.propSet or isinstance(one, vim.TaskManager)), one


def check_privileges(simulator, content, vm):
    key = content.sessionManager.currentSession.key
    wanted = ["VirtualMachine.State.CreateSnapshot", "VirtualMachine.Provisioning.DiskRandomRead"]
    manager = content.authorizationManager
    assert manager.HasPrivilegeOnEntity(vm, key, wanted) == [True, True]
    simulator.fault("NoPermission", wanted[0])
    [answer] = manager.HasPrivilegeOnEntities([vm], key, wanted)
    assert answer.entity == vm and [p.isGranted for p in answer.privAvailability] == [False, True]
    raises(vim.fault.NoPermission, lambda: vm.CreateSnapshot_Task("no", None, False, False),
           lambda fault: fault.privilegeId == wanted[0] and fault.object == vm)
    simulator.control("DELETE", "/faults")


def check_backup(simulator, si, vm, folder):
    """Change tracking, two snapshots, writes between them, changed areas, the frozen disk over NBD, removal."""
    assert not vm.config.changeTrackingEnabled
    WaitForTask(vm.ReconfigVM_Task(vim.vm.ConfigSpec(changeTrackingEnabled=True)), si=si)
    assert vm.config.changeTrackingEnabled and disks_of(vm.config)[0].backing.changeId is None
    first = snapshot_of(si, vm, "first")
    [disk, second_disk] = disks_of(first.config)
    first_id, capacity = disk.backing.changeId, disk.capacityInBytes
    assert first_id.endswith("/1") and first_id != second_disk.backing.changeId, first_id
    assert disk.backing.fileName == "[datastore1] web/web.vmdk"
    live = disks_of(vm.config)[0].backing
    assert live.fileName == "[datastore1] web/web-000001.vmdk"
    assert live.parent.fileName == "[datastore1] web/web.vmdk"
    assert vm.snapshot.currentSnapshot == first and vm.snapshot.rootSnapshotList[0].name == "first"
    allocated, pages, _ = changed_areas(vm, first, 2000, "*", capacity)
    assert allocated and sum(length for _, length in allocated) < capacity and pages >= 1

    before = simulator.control("GET", f"/vms/web/disks/0/frozen/{first._moId}")
    with open(f"{folder}/web0", "rb") as source:
        assert before == source.read(), "the frozen disk is not the disk that the VM was given"
    offsets = [0, 5 * BLOCK + 100, 9 * BLOCK, 11 * BLOCK, 13 * BLOCK, 15 * BLOCK, 17 * BLOCK]
    for offset in offsets:
        simulator.write("web", 0, offset, b"written by the guest")
    simulator.control("POST", f"/vms/web/disks/0/trim?offset={20 * BLOCK}&length={2 * BLOCK}")
    assert simulator.control("GET", f"/vms/web/disks/0/frozen/{first._moId}") == before
    read_over_nbd(simulator, vm, first, before, folder)
    removed = first._moId
    WaitForTask(first.RemoveSnapshot_Task(removeChildren=False, consolidate=True), si=si)
    assert vm.snapshot is None and disks_of(vm.config)[0].backing.fileName == "[datastore1] web/web.vmdk"
    raises(vmodl.fault.ManagedObjectNotFound, lambda: first.config)
    nbd_is_gone(simulator, vm, removed)

    second = snapshot_of(si, vm, "second", quiesce=True)
    second_id = disks_of(second.config)[0].backing.changeId
    assert second_id.split("/") == [first_id.split("/")[0], "2"]
    areas, pages, empty = changed_areas(vm, second, 2000, first_id, capacity)
    blocks = [0, 5, 9, 11, 13, 15, 17]
    expected = [(block * BLOCK, BLOCK) for block in blocks] + [(20 * BLOCK, 2 * BLOCK)]
    assert areas == expected and pages == 3 and empty == 0, (areas, pages, empty)
    simulator.fault("EmptyPages")
    again, pages, empty = changed_areas(vm, second, 2000, first_id, capacity)
    assert again == expected and empty > 0 and pages > 3
    simulator.control("DELETE", "/faults")
    simulator.fault("FalsePositives", "3")
    more, _, _ = changed_areas(vm, second, 2000, first_id, capacity)
    assert sum(length for _, length in more) > sum(length for _, length in expected)
    simulator.control("DELETE", "/faults")
    simulator.fault("CbtWrongMap", "1")
    assert changed_areas(vm, second, 2000, first_id, capacity)[0] == []
    simulator.control("DELETE", "/faults")
    frozen = simulator.control("GET", f"/vms/web/disks/0/frozen/{second._moId}")
    assert [at for at in range(0, capacity, BLOCK) if frozen[at:at + BLOCK] != before[at:at + BLOCK]] == [
        block * BLOCK for block in blocks + [20, 21]]
    read_over_nbd(simulator, vm, second, frozen, folder)
    check_query_faults(simulator, vm, second, first_id, capacity, second_disk)
    check_folder(simulator, si, frozen)
    check_nbd_faults(simulator, vm, second)
    return second, first_id


def nbd_uri(simulator, vm, snapshot_id):
    return f"{simulator.addresses['nbd_url']}/{vm._moId}/{snapshot_id}/2000"


def read_over_nbd(simulator, vm, snapshot, expected, folder):
    uri = nbd_uri(simulator, vm, snapshot._moId)
    for name, command in {"nbdcopy": ["nbdcopy", uri], "qemu": ["qemu-img", "convert", "-f", "raw", "-O", "raw", uri]}.items():
        target = f"{folder}/{name}.raw"
        subprocess.run([*command, target], check=True, timeout=120)
        with open(target, "rb") as copied:
            assert copied.read() == expected, f"{name} read something else"
    listed = json.loads(subprocess.run(["nbdinfo", "--map", "--json", uri], check=True, timeout=60,
                                       capture_output=True).stdout)
    for extent in listed:
        if extent["type"] != 0:
            assert not any(expected[extent["offset"]:extent["offset"] + extent["length"]]), extent
    assert any(extent["type"] != 0 for extent in listed), "a sparse disk has no holes"


def check_nbd_faults(simulator, vm, snapshot):
    uri, quiet = nbd_uri(simulator, vm, snapshot._moId), {"timeout": 60, "capture_output": True}
    copy = ["nbdcopy", "--connections=1", "--requests=1", uri, "null:"]
    simulator.fault("DropNbd", "65536", 1)
    assert subprocess.run(copy, **quiet).returncode != 0, "the connection was not dropped"
    assert subprocess.run(copy, **quiet).returncode == 0, "the switch struck twice"
    simulator.fault("NbdSlow", "1")
    assert subprocess.run(copy, **quiet).returncode == 0
    simulator.fault("NbdGone")
    nbd_is_gone(simulator, vm, snapshot._moId)
    simulator.control("DELETE", "/faults")


def nbd_is_gone(simulator, vm, snapshot_id):
    gone = subprocess.run(["nbdinfo", nbd_uri(simulator, vm, snapshot_id)], timeout=60, capture_output=True)
    assert gone.returncode != 0


def check_query_faults(simulator, vm, snapshot, since, capacity, other_disk):
    def query(start=0, change_id=since, key=2000, at=snapshot):
        return lambda: vm.QueryChangedDiskAreas(at, key, start, change_id)

    raises(vmodl.fault.InvalidArgument, query(start=capacity), lambda f: f.invalidProperty == "startOffset")
    raises(vmodl.fault.InvalidArgument, query(change_id="nonsense"), lambda f: f.invalidProperty == "changeId")
    raises(vmodl.fault.InvalidArgument, query(key=4711), lambda f: f.invalidProperty == "deviceKey")
    raises(vim.fault.FileFault, query(change_id=other_disk.backing.changeId), lambda f: f.file.startswith("[datastore1]"))
    simulator.fault("FileFault")
    raises(vim.fault.FileFault, query())
    simulator.fault("InvalidArgument", "QueryChangedDiskAreas:2")
    query()()
    raises(vmodl.fault.InvalidArgument, query())
    query()()
    assert query(at=None)().changedArea


def check_folder(simulator, si, frozen):
    base = f"https://{simulator.host}:{simulator.port}/folder/web/web-flat.vmdk"
    trust_all = ssl._create_unverified_context()

    def get(query, headers):
        return urllib.request.urlopen(urllib.request.Request(base + query, headers=headers), context=trust_all, timeout=60)

    where, cookie = "?dcPath=Datacenter&dsName=datastore1", {"Cookie": si._stub.cookie}
    with get(where, {**cookie, "Range": "bytes=65530-131080"}) as part:
        assert part.status == 206 and part.headers["Content-Range"] == f"bytes 65530-131080/{len(frozen)}"
        assert part.read() == frozen[65530:131081]
    with get(where, cookie) as whole:
        assert whole.read() == frozen
    for expected, query, headers in [(401, where, {}), (404, "?dcPath=Other&dsName=datastore1", cookie),
                                     (416, where, {**cookie, "Range": f"bytes={len(frozen)}-"})]:
        try:
            get(query, headers)
            raise AssertionError(f"no {expected} came")
        except urllib.error.HTTPError as error:
            assert error.code == expected, error


def check_task_faults(simulator, si, vm):
    simulator.fault("ApplicationQuiesceFault")
    raises(vim.fault.ApplicationQuiesceFault, lambda: snapshot_of(si, vm, "q", quiesce=True))
    simulator.fault("TaskInProgress")
    raises(vim.fault.TaskInProgress, lambda: snapshot_of(si, vm, "t"))
    both = [vm.CreateSnapshot_Task("a", None, False, False), vm.CreateSnapshot_Task("b", None, False, False)]
    raises(vim.fault.TaskInProgress, lambda: WaitForTasks(both, si=si))
    WaitForTasks([vm.RemoveAllSnapshots_Task()], si=si)
    template = si.content.searchIndex.FindByInventoryPath("Datacenter/vm/golden")
    raises(vmodl.fault.NotSupported, lambda: snapshot_of(si, template, "t"))
    raises(vim.fault.InvalidPowerState, lambda: WaitForTask(vm.PowerOnVM_Task(), si=si))
    simulator.fault("ConsolidationNeeded")
    snapshot = snapshot_of(si, vm, "left behind")
    WaitForTask(snapshot.RemoveSnapshot_Task(False, True), si=si)
    assert vm.runtime.consolidationNeeded and vm.snapshot is None
    WaitForTask(vm.ConsolidateVMDisks_Task(), si=si)
    assert not vm.runtime.consolidationNeeded
    assert disks_of(vm.config)[0].backing.fileName == "[datastore1] web/web.vmdk"


def check_tree(si, vm):
    one = snapshot_of(si, vm, "one")
    two = snapshot_of(si, vm, "two")
    assert two.config.hardware.device and one.childSnapshot == [two]
    WaitForTask(one.RevertToSnapshot_Task(), si=si)
    assert vm.snapshot.currentSnapshot == one
    three = snapshot_of(si, vm, "three")
    assert sorted(child._moId for child in one.childSnapshot) == sorted([two._moId, three._moId])
    WaitForTask(one.RemoveSnapshot_Task(removeChildren=True), si=si)
    assert vm.snapshot is None


def check_history_ends(simulator, si, vm):
    """After a reset, a revert or a resize the earlier change ids are refused, or the capacity tells."""
    for event in ("CbtReset", "Revert"):
        before = snapshot_of(si, vm, "before")
        change_id = disks_of(before.config)[0].backing.changeId
        WaitForTask(before.RemoveSnapshot_Task(False), si=si)
        simulator.fault(event, "web")
        after = snapshot_of(si, vm, "after")
        assert disks_of(after.config)[0].backing.changeId.split("/")[0] != change_id.split("/")[0]
        raises(vim.fault.FileFault, lambda: vm.QueryChangedDiskAreas(after, 2000, 0, change_id))
        WaitForTask(after.RemoveSnapshot_Task(False), si=si)
    capacity = disks_of(vm.config)[1].capacityInBytes
    simulator.fault("Resize", f"web/1={capacity + BLOCK}")
    assert disks_of(vm.config)[1].capacityInBytes == capacity + BLOCK


def check_sessions(simulator, si, vm):
    simulator.fault("NotAuthenticated", "CurrentTime:2")
    si.CurrentTime()
    raises(vim.fault.NotAuthenticated, si.CurrentTime)
    other = simulator.connect()
    simulator.control("POST", "/sessions/expire")
    raises(vim.fault.NotAuthenticated, lambda: vim.VirtualMachine(vm._moId, other._stub).name)
    third = simulator.connect()
    simulator.fault("DropConnections", "CurrentTime")
    raises(http.client.RemoteDisconnected, third.CurrentTime)
    Disconnect(third)


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        simulator = Simulator(json.load(file))
    si = check_login(simulator)
    content = si.RetrieveContent()
    vm = check_inventory(content)
    check_privileges(simulator, content, vm)
    snapshot, _ = check_backup(simulator, si, vm, sys.argv[2])
    check_everything_is_readable(content, vm, snapshot)
    WaitForTask(snapshot.RemoveSnapshot_Task(False), si=si)
    check_task_faults(simulator, si, vm)
    check_tree(si, vm)
    check_history_ends(simulator, si, vm)
    check_sessions(simulator, si, vm)
    print("all checks passed")


main()
