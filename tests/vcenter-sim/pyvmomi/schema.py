"""Prints the part of the vim25 type system that the simulator speaks, taken from pyvmomi's own tables.

Run it when the simulator needs another type or method, and commit what it prints:

    python pyvmomi/schema.py > src/soap/schema.txt

One line a type, fields in wire order, inherited ones first: `name:type`, with `[]` for arrays and `?` where optional.
    data   NAME BASE FIELD...
    object NAME BASE PROPERTY...
    method OBJECT.NAME PRIVILEGE RESULT PARAMETER...
    fault  NAME BASE FIELD...
"""
from datetime import datetime

from pyVmomi import VmomiSupport as V
from pyVmomi import vim, vmodl

VERSION = "vim.version.v8_0_3_0"

METHODS = {
    vim.ServiceInstance: "RetrieveServiceContent CurrentTime",
    vim.SessionManager: "Login Logout SessionIsActive",
    vim.AuthorizationManager: "HasPrivilegeOnEntities HasPrivilegeOnEntity",
    vim.view.ViewManager: "CreateContainerView",
    vim.view.ContainerView: "DestroyView",
    vim.SearchIndex: "FindByInventoryPath FindByUuid",
    vim.Task: "CancelTask",
    vim.ExtensibleManagedObject: "",
    vim.ManagedEntity: "",
    vim.Datastore: "",
    vim.Datacenter: "",
    vim.Folder: "",
    vim.HostSystem: "",
    vim.ComputeResource: "",
    vim.ResourcePool: "",
    vim.Network: "",
    vim.TaskManager: "",
    vim.VirtualMachine: "ReconfigVM_Task CreateSnapshot_Task CreateSnapshotEx_Task RemoveAllSnapshots_Task "
                        "RevertToCurrentSnapshot_Task ConsolidateVMDisks_Task QueryChangedDiskAreas PowerOnVM_Task PowerOffVM_Task",
    vim.vm.Snapshot: "RemoveSnapshot_Task RevertToSnapshot_Task",
    vim.host.DatastoreBrowser: "SearchDatastore_Task",
    vmodl.query.PropertyCollector: "CreateFilter RetrieveProperties RetrievePropertiesEx ContinueRetrievePropertiesEx "
                                   "CancelRetrievePropertiesEx WaitForUpdates WaitForUpdatesEx CheckForUpdates "
                                   "CancelWaitForUpdates CreatePropertyCollector DestroyPropertyCollector",
    vmodl.query.PropertyCollector.Filter: "DestroyPropertyFilter",
}

DATA = """
ServiceContent AboutInfo UserSession EntityPrivilege PrivilegeAvailability Description LocalizedMethodFault
TaskInfo TaskReason TaskReasonUser LocalizableMessage KeyAnyValue
VirtualMachineCapability VirtualMachineConfigInfo VirtualMachineFileInfo VirtualMachineFlagInfo ToolsConfigInfo
VirtualMachineDefaultPowerOpInfo OptionValue VirtualHardware VirtualMachineBootOptions VirtualMachineConfigSpec
VirtualDevice VirtualDisk VirtualController ParaVirtualSCSIController VirtualDeviceConfigSpec
VirtualDiskFlatVer2BackingInfo VirtualDiskRawDiskMappingVer1BackingInfo
VirtualMachineRuntimeInfo VirtualMachineSummary VirtualMachineConfigSummary VirtualMachineStorageSummary
VirtualMachineGuestSummary VirtualMachineQuickStats GuestInfo
VirtualMachineSnapshotInfo VirtualMachineSnapshotTree VirtualMachineWindowsQuiesceSpec VirtualMachineGuestQuiesceSpec
VirtualMachineFileLayoutEx VirtualMachineFileLayoutExFileInfo VirtualMachineFileLayoutExDiskLayout VirtualMachineFileLayoutExDiskUnit
VirtualMachineFileLayoutExSnapshotLayout VirtualMachineStorageInfo VirtualMachineUsageOnDatastore
DiskChangeInfo DiskChangeExtent
DatastoreInfo VmfsDatastoreInfo HostVmfsVolume HostScsiDiskPartition DatastoreSummary DatastoreCapability DatastoreHostMount HostMountInfo
HostListSummary HostConfigSummary HostRuntimeInfo HostListSummaryQuickStats HostHardwareSummary HostConnectInfo
ComputeResourceSummary NetworkSummary ResourcePoolSummary ResourceConfigSpec ResourceAllocationInfo SharesInfo ResourcePoolRuntimeInfo ResourcePoolResourceUsage
HostDatastoreBrowserSearchResults HostDatastoreBrowserSearchSpec FileInfo VmDiskFileInfo FileQueryFlags
PropertyFilterSpec PropertySpec ObjectSpec SelectionSpec TraversalSpec RetrieveOptions RetrieveResult ObjectContent DynamicProperty
MissingProperty UpdateSet PropertyFilterUpdate ObjectUpdate PropertyChange MissingObject WaitOptions
CustomFieldValue
""".split()

FAULTS = """
InvalidLogin NotAuthenticated NoPermission FileFault FileLocked InvalidArgument ManagedObjectNotFound TaskInProgress
ApplicationQuiesceFault InvalidState InvalidPowerState InvalidRequest InvalidProperty InvalidCollectorVersion NotFound NotSupported
SystemError MethodNotFound InvalidName FileNotFound RequestCanceled InvalidSnapshotFormat InvalidType
""".split()

PRIMITIVES = {
    "int": "xsd:int", "long": "xsd:long", "short": "xsd:short", "byte": "xsd:byte", "bool": "xsd:boolean",
    "str": "xsd:string", "binary": "xsd:base64Binary", "float": "xsd:float", "double": "xsd:double", "URI": "xsd:anyURI",
    "PropertyPath": "xsd:string", "type": "xsd:string", "ManagedMethod": "xsd:string", "object": "xsd:anyType",
}


def type_name(of):
    """The wire name of a type, arrays with their brackets."""
    if isinstance(of, type) and issubclass(of, list):
        return type_name(of.Item) + "[]"
    if of is datetime:
        return "xsd:dateTime"
    if issubclass(of, V.ManagedObject):
        return "ManagedObjectReference"
    if issubclass(of, vmodl.MethodFault):
        return "LocalizedMethodFault"
    if of.__name__ in PRIMITIVES and not issubclass(of, V.DataObject):
        return PRIMITIVES[of.__name__]
    return of._wsdlName if hasattr(of, "_wsdlName") else of.__name__


def fields_of(of):
    if of._wsdlName == "LocalizedMethodFault":
        return "fault:MethodFault localizedMessage:xsd:string?"
    fields = []
    for field in of._GetPropertyList():
        if field.name in ("dynamicType", "dynamicProperty") or not V.IsChildVersion(VERSION, field.version):
            continue
        # pyvmomi models a fault's localized message as a field of the fault; on the wire it is not.
        if issubclass(of, vmodl.MethodFault) and field.name == "msg":
            continue
        wire = type_name(field.type)
        fields.append(f"{field.name}:{wire}{'?' if field.flags & V.F_OPTIONAL else ''}")
    return " ".join(fields)


def base_of(of):
    return of.__bases__[0]._wsdlName


def main():
    for name in DATA:
        of = V.GetWsdlType("urn:vim25", name)
        print("data", name, base_of(of), fields_of(of))
    for name in FAULTS:
        of = V.GetWsdlType("urn:vim25", name)
        print("fault", name, base_of(of), fields_of(of))
    for of, methods in METHODS.items():
        print("object", of._wsdlName, base_of(of), fields_of(of))
        for name in methods.split():
            info = None
            for attribute in dir(of):
                member = getattr(of, attribute)
                if isinstance(member, V.ManagedMethod) and member.info.wsdlName == name:
                    info = member.info
            parameters = " ".join(
                f"{p.name}:{type_name(p.type)}{'?' if p.flags & V.F_OPTIONAL else ''}" for p in info.params
                if V.IsChildVersion(VERSION, p.version))
            result = type_name(info.result) if info.result is not type(None) else "void"
            result = "ManagedObjectReference" if name.endswith("_Task") else result
            print("method", f"{of._wsdlName}.{name}", info.privId or "-", result, parameters)


main()
